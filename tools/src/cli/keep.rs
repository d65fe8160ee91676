//! `stele scrub`, `stele repair`, `stele reclaim` and `stele object`. Exit codes: 0 all is well, 1 the command failed, 2 it found what is not well.

use super::{NOT_WELL, Server, client, wait};
use crate::admin_client::{AdminClient, ClientError};
use crate::keep_answers::{
    FindingsAnswer, LifecycleAnswer, PlanAnswer, ReclaimAnswer, RepairAnswer, ScrubAnswer, WaitLine,
};
use crate::object_map::{ObjectAnswer, ObjectQuestion};
use crate::progress::{Progress, Unit};
use clap::{Args, Subcommand};
use hyper::Method;
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// Which server, and how to report.
#[derive(Debug, Args)]
pub(super) struct Asked {
    #[command(flatten)]
    pub(super) server: Server,
    /// As JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Scrub {
    /// Begin a whole pass on every drive now; ends a pause. With --wait it exits with 2 when there are findings, or a drive
    /// could not be read.
    Start {
        #[command(flatten)]
        asked: Asked,
        /// Wait until the passes have ended.
        #[arg(long)]
        wait: bool,
    },
    /// Read nothing until told otherwise; survives restarts.
    Pause(Asked),
    /// End a pause.
    Resume(Asked),
    /// How far it is, drive by drive. Exits with 2 when there are findings.
    Status(Asked),
    /// What is not as it should be. Exits with 2 when there is anything, or a drive could not be asked.
    Report {
        #[command(flatten)]
        asked: Asked,
        /// Name the objects that depend on each, up to so many: goes over the whole index, and reads all manifests.
        #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20")]
        objects: Option<u32>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Repair {
    /// Stripes that are not whole, and what repair did. Exits with 2 when there are any, or an alarm, or when not all stripes
    /// were looked at yet since the start or since a drive changed.
    Status(Asked),
    /// What is to be mended, the most endangered first, and what waits.
    Plan(Asked),
    /// Wait until every stripe that repair knows of is whole, or it can do nothing more. Exits with 2 when some are not whole,
    /// or there is an alarm.
    Wait(Asked),
    /// Mend nothing until told otherwise, or until a restart.
    Pause(Asked),
    /// Let repair go on.
    Resume(Asked),
}

#[derive(Debug, Subcommand)]
pub(super) enum Reclaim {
    /// Whether space is given back, and how much was. Exits with 2 when it is held, or the last round ended early.
    Status(Asked),
    /// Delete nothing until it is released; survives restarts.
    Hold(Asked),
    /// Let it go on: after a hold, or after lost metadata was restored and looked at.
    Release(Asked),
}

#[derive(Debug, Subcommand)]
pub(super) enum Object {
    /// Where its shards lie, and when each was last verified. Exits with 2 when something is known to be wrong.
    Locate(Named),
    /// Reads each of its shards from the medium and says whether it is good. Exits with 2 when one is not.
    Verify(Named),
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The object.
    #[arg(value_name = "BUCKET/KEY")]
    name: String,
    #[command(flatten)]
    asked: Asked,
}

/// Runs `stele reclaim`.
pub(super) async fn reclaim(command: Reclaim) -> Result<u8, ClientError> {
    let (method, path, asked) = match command {
        Reclaim::Status(asked) => (Method::GET, "/v1/reclaim", asked),
        Reclaim::Hold(asked) => (Method::POST, "/v1/reclaim/hold", asked),
        Reclaim::Release(asked) => (Method::POST, "/v1/reclaim/release", asked),
    };
    let looks = method == Method::GET;
    let answer: ReclaimAnswer = client(&asked.server)?.ask(method, path).await?;
    show(&answer, asked.json, print_reclaim);
    Ok(if looks && (answer.held.is_some() || !answer.error.is_empty()) { NOT_WELL } else { 0 })
}

/// Runs `stele object`.
pub(super) async fn object(command: Object) -> Result<u8, ClientError> {
    let (path, Named { name, asked }) = match command {
        Object::Locate(named) => ("/v1/object/locate", named),
        Object::Verify(named) => ("/v1/object/verify", named),
    };
    let (bucket, key) = name.split_once('/').unwrap_or((&name, ""));
    let question = ObjectQuestion { bucket: bucket.to_owned(), key: key.to_owned() };
    let answer: ObjectAnswer = client(&asked.server)?.send(path, &question).await?;
    show(&answer, asked.json, print_object);
    Ok(if answer.good { 0 } else { NOT_WELL })
}

pub(super) fn print_reclaim(answer: &ReclaimAnswer) {
    match &answer.held {
        Some(reason) => println!("reclaim is held: {reason}"),
        None => println!("reclaim is on"),
    }
    println!(
        "  since the start: {} rounds, {} MiB given back; last round: {} chunks deleted, {} moved",
        answer.rounds,
        answer.freed_bytes >> 20,
        answer.deleted,
        answer.moved
    );
    println!(
        "  waiting: {} chunks of {} MiB{}, {} stripes of {} MiB to be freed, {} to be rewritten",
        answer.condemned,
        answer.condemned_bytes >> 20,
        match answer.oldest_condemned_ms {
            0 => String::new(),
            age => format!(" (the oldest for {})", length(age)),
        },
        answer.waiting,
        answer.waiting_bytes >> 20,
        answer.backlog_stripes
    );
    if answer.pass_ms > 0 {
        println!("  last pass {}, in {}", ago(answer.pass_ms), length(answer.pass_took_ms));
    }
    if let (Some(day), Some(left)) = (answer.day_bytes, answer.day_left) {
        println!("  {} MiB may be freed a day, {} of them now", day >> 20, left >> 20);
    }
    if answer.saved_bytes > 0 {
        println!("  {} MiB saved by compressing again what was rewritten", answer.saved_bytes >> 20);
    }
    if answer.unread_manifests > 0 {
        println!("  {} manifests can't be read: see the warnings of stele status", answer.unread_manifests);
    }
    if answer.refused > 0 {
        println!("  {} shards lie where something else was found, and were left alone", answer.refused);
    }
    if !answer.error.is_empty() {
        println!("  the last round ended early: {}", answer.error);
    }
}

/// Lifecycle in `stele status`. Rules that can't be followed are among the warnings.
pub(super) fn lifecycle_text(answer: &LifecycleAnswer) -> String {
    let pass = &answer.pass;
    let what = format!(
        "{} expired, {} deleted, {} moved, {} uploads given up, {} kept by a lock, {} left for the next pass",
        pass.expired, pass.deleted, pass.moved, pass.aborted, pass.locked, pass.skipped
    );
    let mut text = match (answer.running, answer.ended_ms, answer.day_ms) {
        (true, ..) => format!("lifecycle: a pass is in progress: {what}\n"),
        (false, 0, 0) => "lifecycle: there was no pass yet\n".to_owned(),
        (false, 0, day_ms) => {
            format!("lifecycle: the last pass was before the start, for the day that began {}\n", ago(day_ms))
        }
        (false, ended_ms, _) => format!("lifecycle: last pass {}: {what}\n", ago(ended_ms)),
    };
    if answer.held {
        text += "  nothing expires while reclaim is held\n";
    }
    if !answer.error.is_empty() {
        text += &format!("  the last round ended early: {}\n", answer.error);
    }
    text
}

fn print_object(answer: &ObjectAnswer) {
    println!("{}/{}: {} bytes, {} chunks, tag {}", answer.bucket, answer.key, answer.size, answer.chunks, answer.etag);
    for stripe in &answer.stripes {
        println!("stripe {}  {} data shards", stripe.stripe, stripe.data);
        for shard in &stripe.shards {
            let (drive, verified) = (short(&shard.drive), ago(shard.verified_ms));
            println!("  shard {:>2}  drive {drive}  {:<12} verified {verified}", shard.index, shard.state);
        }
    }
    if !answer.journal.is_empty() {
        let drives: Vec<&str> = answer.journal_drives.iter().map(|drive| short(drive)).collect();
        println!("{} journal entries, on drives {}", answer.journal.len(), drives.join(", "));
    }
}

/// Runs `stele scrub`.
pub(super) async fn scrub(command: Scrub) -> Result<u8, ClientError> {
    let (method, path, asked) = match command {
        Scrub::Start { asked, wait: true } => return scrub_wait(asked).await,
        Scrub::Start { asked, wait: false } => (Method::POST, "/v1/scrub/start", asked),
        Scrub::Pause(asked) => (Method::POST, "/v1/scrub/pause", asked),
        Scrub::Resume(asked) => (Method::POST, "/v1/scrub/resume", asked),
        Scrub::Status(asked) => (Method::GET, "/v1/scrub", asked),
        Scrub::Report { asked, objects } => return report(asked, objects).await,
    };
    let looks = method == Method::GET;
    let answer: ScrubAnswer = client(&asked.server)?.ask(method, path).await?;
    show(&answer, asked.json, print_scrub);
    Ok(if looks && found(&answer) { NOT_WELL } else { 0 })
}

fn found(answer: &ScrubAnswer) -> bool {
    answer.drives.iter().flat_map(|drive| drive.findings.values()).any(|count| *count > 0)
}

async fn scrub_wait(asked: Asked) -> Result<u8, ClientError> {
    let answer = wait::scrub(&client(&asked.server)?, asked.json).await?;
    show(&answer, asked.json, print_scrub);
    let stopped = answer.drives.iter().any(|drive| drive.state == "stopped");
    Ok(if stopped || found(&answer) { NOT_WELL } else { 0 })
}

async fn report(asked: Asked, objects: Option<u32>) -> Result<u8, ClientError> {
    let path = objects.map_or_else(|| "/v1/scrub/report".to_owned(), |n| format!("/v1/scrub/report?objects={n}"));
    let progress = Progress::new("looking for what depends on it", Unit::Nothing, asked.json || objects.is_none());
    let client = client(&asked.server)?;
    let answer: FindingsAnswer = match objects {
        Some(_) => client.ask_patiently(Method::GET, &path).await?,
        None => client.ask(Method::GET, &path).await?,
    };
    progress.finish();
    show(&answer, asked.json, print_findings);
    Ok(if answer.findings.is_empty() && answer.unasked.is_empty() { 0 } else { NOT_WELL })
}

/// Runs `stele repair`.
pub(super) async fn repair(command: Repair) -> Result<u8, ClientError> {
    let (method, path, asked) = match command {
        Repair::Status(asked) => (Method::GET, "/v1/repair", asked),
        Repair::Pause(asked) => (Method::POST, "/v1/repair/pause", asked),
        Repair::Resume(asked) => (Method::POST, "/v1/repair/resume", asked),
        Repair::Wait(asked) => {
            let answer = wait::repair(&client(&asked.server)?, asked.json).await?;
            show(&answer, asked.json, print_repair);
            return Ok(if answer.is_well() { 0 } else { NOT_WELL });
        }
        Repair::Plan(asked) => {
            let answer: PlanAnswer = client(&asked.server)?.ask(Method::GET, "/v1/repair/plan").await?;
            show(&answer, asked.json, print_plan);
            return Ok(0);
        }
    };
    let looks = method == Method::GET;
    let answer: RepairAnswer = client(&asked.server)?.ask(method, path).await?;
    show(&answer, asked.json, print_repair);
    Ok(if looks && !answer.is_well() { NOT_WELL } else { 0 })
}

/// Scrub's condition, for the one screen of `stele status`.
pub(super) async fn scrub_status(client: &AdminClient) -> Result<ScrubAnswer, ClientError> {
    client.ask(Method::GET, "/v1/scrub").await
}

/// Prints an answer, as JSON or for people.
pub(super) fn show<T: Serialize>(answer: &T, json: bool, print: impl FnOnce(&T)) {
    match json {
        true => println!("{}", serde_json::to_string_pretty(answer).unwrap_or_default()),
        false => print(answer),
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// A length of time, in its largest unit.
pub(super) fn length(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

/// How long ago, or never.
fn ago(ms: u64) -> String {
    if ms == 0 { "never".to_owned() } else { format!("{} ago", length(now_ms().saturating_sub(ms))) }
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn print_scrub(answer: &ScrubAnswer) {
    for drive in &answer.drives {
        let found: u64 = drive.findings.values().sum();
        println!(
            "drive {}  {:<8} {:>3} %  {} of {} shards verified, oldest {}; last pass {}; {found} findings ({})",
            short(&drive.drive),
            drive.state,
            drive.pass_bytes.saturating_mul(100).checked_div(drive.total_bytes).unwrap_or(100).min(100),
            drive.verified_shards,
            drive.shards,
            ago(drive.oldest_ms),
            ago(drive.last_pass_ms),
            drive.medium
        );
    }
}

/// All drives' scrub in one line.
pub(super) fn print_scrub_line(answer: &ScrubAnswer) {
    let sum = |of: fn(&crate::keep_answers::ScrubDrive) -> u64| answer.drives.iter().map(of).sum::<u64>();
    let done = sum(|d| d.pass_bytes).saturating_mul(100).checked_div(sum(|d| d.total_bytes)).unwrap_or(100).min(100);
    let oldest = answer.drives.iter().map(|drive| drive.oldest_ms).filter(|ms| *ms > 0).min().unwrap_or(0);
    let paused = answer.drives.iter().filter(|drive| drive.state == "paused").count();
    println!(
        "scrub: {done} % of the pass, {} of {} shards verified, oldest {}, {} findings{}",
        sum(|d| d.verified_shards),
        sum(|d| d.shards),
        ago(oldest),
        sum(|d| d.findings.values().sum()),
        if paused > 0 { format!(", paused on {paused} drives") } else { String::new() }
    );
}

fn print_findings(answer: &FindingsAnswer) {
    for finding in &answer.findings {
        println!(
            "drive {}  {:<16} {}  found {}  {}",
            short(&finding.drive),
            finding.kind,
            finding.subject,
            ago(finding.found_ms),
            finding.detail
        );
        let (objects, count) = (finding.objects.as_deref().unwrap_or_default(), finding.object_count.unwrap_or(0));
        // A key may hold anything, also what a terminal obeys.
        objects.iter().for_each(|object| println!("    {}", object.escape_debug()));
        match count.saturating_sub(objects.len() as u64) {
            0 => {}
            more => println!("    ... and {more} more objects"),
        }
    }
    if answer.more {
        println!("... and more");
    }
    if answer.unread_manifests > 0 {
        println!("{} manifests can't be read: more objects may depend on these", answer.unread_manifests);
    }
    answer.unasked.iter().for_each(|line| println!("not asked: {line}"));
    if answer.findings.is_empty() && answer.unasked.is_empty() {
        println!("nothing is wrong, as far as was looked");
    }
}

/// Repair's condition.
pub(super) fn print_repair(answer: &RepairAnswer) {
    let wounded: u64 = answer.by_slack.iter().map(|line| line.stripes).sum();
    let state = if answer.paused { " (paused)" } else { "" };
    let walking = match (answer.whole_walk, answer.walking) {
        (false, _) => ", as far as was looked: not all were yet",
        (true, true) => ", all being looked at once more",
        (true, false) => "",
    };
    println!(
        "repair{state}: {wounded} stripes are not whole{walking}; {} wait, {} are beyond repair",
        answer.waiting, answer.beyond
    );
    print_waits(&answer.waits);
    for line in &answer.by_slack {
        match line.slack {
            0.. => println!("  {} stripes can lose {} more shards", line.stripes, line.slack),
            lacking => {
                println!("  {} stripes lack {} shards and can't be read now", line.stripes, lacking.unsigned_abs())
            }
        }
    }
    if let Some(oldest) = answer.oldest_ms {
        println!("  the oldest loss is {} old", length(oldest));
    }
    println!(
        "  since the start: {} shards rebuilt, {} MiB read, {} MiB written, {} repairs failed",
        answer.rebuilt_shards,
        answer.read_bytes >> 20,
        answer.written_bytes >> 20,
        answer.failed
    );
    if let Some(ended) = answer.inventory_ms {
        println!("  inventory {}: {} shards wrong, {} orphans", ago(ended), answer.inventory_found, answer.orphans);
    }
    answer.alarms.iter().for_each(|alarm| println!("alarm: {alarm}"));
}

fn print_waits(waits: &[WaitLine]) {
    for line in waits {
        println!("  {} stripes wait{}: {}", line.stripes, until(line.until_ms, line.last_ms), line.why);
    }
}

/// Until when something waits that ends at these times, from the first to the last of its kind.
fn until(first: Option<u64>, last: Option<u64>) -> String {
    let left = |ms: u64| length(ms.saturating_sub(now_ms()));
    match (first.map(left), last.map(left)) {
        (Some(first), Some(last)) if first != last => format!(" {first} to {last} more"),
        (Some(left), _) => format!(" {left} more"),
        (None, _) => String::new(),
    }
}

fn print_plan(answer: &PlanAnswer) {
    for item in &answer.items {
        let targets: Vec<String> = item.targets.iter().map(|(i, drive)| format!("{i} -> {}", short(drive))).collect();
        println!(
            "stripe {}  slack {}  {} % of drive time, {} KiB read, shards {}",
            item.stripe,
            item.slack,
            item.share,
            item.read_bytes >> 10,
            targets.join(", ")
        );
    }
    answer.narrower.iter().for_each(|stripe| println!("stripe {stripe}  to be made narrower"));
    if answer.later > 0 {
        println!("... and {} more to be mended after those", answer.later);
    }
    for w in &answer.waiting {
        println!("stripe {}  slack {}  waits{}: {}", w.stripe, w.slack, until(w.until_ms, None), w.why);
    }
    print_waits(&answer.waits);
    let nothing = answer.items.is_empty() && answer.narrower.is_empty() && answer.later == 0 && answer.waits.is_empty();
    match (nothing, answer.whole_walk) {
        (true, true) => println!("nothing is to be mended"),
        (true, false) => println!("nothing is to be mended as far as was looked: not all stripes were yet"),
        (false, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keep_answers::LifecycleDone;

    #[test]
    fn lifecycle_says_when_the_last_pass_was_and_what_it_did() {
        let none = LifecycleAnswer::default();
        assert_eq!(lifecycle_text(&none), "lifecycle: there was no pass yet\n");
        let before = LifecycleAnswer { day_ms: 1, ..none };
        assert!(lifecycle_text(&before).contains("before the start, for the day that began "));
        let pass = LifecycleDone { expired: 5, aborted: 2, locked: 3, ..LifecycleDone::default() };
        let ended = LifecycleAnswer { ended_ms: now_ms(), pass, ..before };
        let what = "5 expired, 0 deleted, 0 moved, 2 uploads given up, 3 kept by a lock, 0 left for the next pass\n";
        let text = lifecycle_text(&ended);
        assert!(text.starts_with("lifecycle: last pass ") && text.ends_with(&format!(" ago: {what}")), "{text}");
        let running = LifecycleAnswer { running: true, held: true, error: "no room".to_owned(), ..ended };
        let lines = ["  nothing expires while reclaim is held\n", "  the last round ended early: no room\n"].concat();
        assert_eq!(lifecycle_text(&running), format!("lifecycle: a pass is in progress: {what}{lines}"));
    }
}
